"""What models say instead of a prompt: they decline, see no picture, report an error, or have no answer. Phrases by language.

BLIND: the model says that it was shown no picture, or asks for one. Whatever else it says is a guess, so one such sentence anywhere
is enough. DECLINES: it will not or cannot answer; this counts only at the beginning of a sentence.
A pattern is a whole phrase ("I cannot see any image"), never a single word: "a sorry puppy" and "no image icon" are prompts.
"""

import re

THING = r"(?:image|picture|photo|photograph|file|grid|attachment|visual|screenshot|figure|diagram)s?"
NOT_DONE = (
    r"(?:attached|provided|uploaded|included|visible|given|found|detected|received|shared|sent|available|present|supplied|specified"
    r"|displayed|loaded|shown|come through|arrived)"
)
# Where a clause may begin: at the start of the sentence, or after a word that opens a clause.
CLAUSE = r"(?:^\W*|\b(?:but|that|like|because|since|as|sorry|however|unfortunately|seems|appears|though|if),?\s+)"

BLIND = {
    "English": (
        rf"\bi\b(?:'m| am)?[^.!?]{{0,20}}?\b(?:cannot|can not|can'?t|couldn'?t|could not|don'?t|do not|didn'?t|did not|unable to"
        rf"|not able to|haven'?t|have not|not capable of|not (?=seeing|receiving|getting))\s*[^.!?]{{0,40}}?\b(?:see|view|access|open"
        rf"|perceive|look at|receive[d]?|get|have|find|detect|process|analy[sz]e|display|read|load|interpret|seeing|viewing|receiving"
        rf"|getting)\b[^.!?]{{0,60}}?\b{THING}\b",
        r"\bi (?:don't|can't|cannot|do not|can not) see (?:it|one|them|any|anything)\W*$",
        rf"\bi(?:'ll)? (?:would |will )?need (?:you to|to see|to view|access)\b[^.!?]{{0,40}}\b{THING}\b",
        r"\b(?:image|vision|picture|multimodal)s?(?: inputs?| uploads?)? (?:is|are) not (?:currently )?(?:supported|enabled|accepted)\b",
        rf"^\W*(?:(?:this|the) )?(?:model|endpoint|version|assistant) (?:does not|doesn't|can't|cannot|can not) (?:\w+ )?(?:support"
        rf"|accept|process|take|handle|see|view)"
        rf" (?:\w+ )?{THING}\b",
        rf"^\W*{THING} (?:not (?:found|available|provided|attached|loaded|uploaded|visible|supported)|unavailable|missing)\W*$",
        rf"\bi (?:see|find|have|received|got) no (?:\w+ )?{THING}\b",
        rf"{CLAUSE}(?:there(?:'s| is| are| was| were| seems? to be| appears? to be) (?:no|not any|not an?)\s+(?:\w+ ){{0,2}}?{THING}\b)",
        rf"{CLAUSE}there (?:isn't|aren't|wasn't|weren't) (?:any|an?)\s+(?:\w+ ){{0,2}}?{THING}\b",
        rf"{CLAUSE}no (?:\w+ )?{THING} (?:(?:was|were|is|are|has been|have been|seems? to be) )?{NOT_DONE}"
        rf"(?=\W*$|\s*[,;:(]|\s+(?:in|with|to|for|by|here|yet|so|and)\b)",
        rf"{CLAUSE}(?:the|your|this|any) (?:\w+ ){{0,2}}?{THING} (?:(?:that )?you \w+ )?(?:(?:does not|doesn't|did not|didn't|failed to"
        rf"|could not|couldn't|cannot|can't|won't) (?:\w+ )?(?:load|attach|upload|come through|appear|display|show|render|be \w+)"
        rf"|(?:is|are|was|were|has|have) (?:not|n't) (?:been )?(?:\w+ )?{NOT_DONE}|(?:isn't|wasn't|hasn't|aren't) (?:been )?{NOT_DONE}"
        rf"|(?:is|are|seems?(?: to be)?|appears?(?: to be)?) (?:\w+ )?(?:missing|broken|corrupt|corrupted|unavailable|inaccessible|blank)"
        rf"(?=\W*$|\s*[,;]))",
        r"\byou (?:have not|haven't|did not|didn't|forgot to|may have forgotten to|might have forgotten to) (?:\w+ )?(?:attach|upload"
        r"|provide|include|sen[dt]|share)",
        rf"^(?!.*\bif you (?:want|need|like|have))\W*(?:.*\b(?:if|once|so|but|and|,)\W+)?(?:please|kindly|(?:could|can"
        rf"|would) you(?: please)?"
        rf"|you (?:can|could|may|need to|should))\s+(?:\w+\s+){{0,2}}?(?:re-?)?(?:upload|attach|provide|share|send|describe|supply|paste"
        rf"|include|give|insert)\b[^.!?]{{0,60}}\b(?:{THING}|descriptions?|more (?:information|context|details))\b",
    ),
    "Chinese": (
        r"(?:没有?|沒有?|未能?|无法|無法|不能|并未|並未|尚未)[^。!?]{0,8}?(?:看到|看见|看見|收到|查看|上传|上傳|提供|附上|附加|打开|打開"
        r"|识别|識別"
        r"|显示|顯示|加载|載入|发送|發送|处理|處理|分析|访问|訪問|接收|检测到|檢測到)[^。!?]{0,10}?(?:图|圖|照片|文件|附件|影像)",
        r"我看不(?:到|见|見)[^。!?]{0,10}(?:图|圖|照片|影像)",
        r"^\W*(?:您|你)?[^。!?]{0,4}(?:图片|圖片|图像|圖像|照片|附件)[^。!?]{0,4}(?:没有|沒有|未能?|无法|無法)[^。!?]{0,4}"
        r"(?:上传|上傳|显示|顯示|加载|載入|附上|提供|查看)",
        r"[请請](?:您|你)?[^。!?]{0,6}(?:上传|上傳|提供|发送|發送|附上|描述|分享)[^。!?]{0,12}(?:图|圖|照片|描述|内容|內容|信息)",
    ),
    "Japanese": (
        r"(?:画像|写真|図|ファイル|添付)[^。!?]{0,16}?(?:見え|見る|見られ|見当たり|見つかり|確認|表示|添付|提供|アップロード|受け取|認識"
        r"|届い|含まれ|読み込)"
        r"[^。!?]{0,12}?(?:ません|ない(?:よう|ため|です|$)|なかった)",
        r"(?:画像|写真|添付)[^。!?]{0,6}(?:ありません|ございません|ない(?:よう|ため|です))",
        r"(?:画像|写真)[^。!?]{0,8}(?:アップロード|添付|提供|共有|送信|送って)[^。!?]{0,6}(?:ください|いただ|お願い)",
    ),
    "Korean": (
        r"(?:이미지|사진|그림|파일|첨부)[^.!?]{0,16}?(?:볼 수(?:가)? 없|보이지 않|확인할 수(?:가)? 없|없습니다|없어요|없네요|되지 않았"
        r"|인식할 수 없|열 수 없|받지 못)",
        r"(?:이미지|사진|그림)[^.!?]{0,10}(?:업로드|첨부|제공|공유|보내)[^.!?]{0,8}(?:주세요|주시|부탁|바랍니다)",
    ),
    "German": (
        r"\bich\b[^.!?]{0,40}\b(?:kein\w*|nicht)\b[^.!?]{0,40}\b(?:bild\w*|foto\w*|datei\w*|anhang|grafik\w*)\b"
        r"(?=[^.!?]*\b(?:sehe\w*|erkenne\w*|öffne\w*|ansehen|zugreifen|finde\w*|erhalten|empfangen|analysieren|anzeigen)\b|\W*$)",
        r"\bich (?:sehe|erkenne|finde|habe) (?:leider |hier )*kein\w* (?:bild\w*|foto\w*|datei\w*|anhang)",
        r"\bich (?:kann|konnte)\b[^.!?]{0,40}\b(?:bild\w*|foto\w*|datei\w*)\b[^.!?]{0,20}\b(?:nicht|kein\w*)\b",
        r"^\W*(?:leider |es )?(?:wurde|ist|war|gibt|liegt)\b[^.!?]{0,20}\bkein\w* (?:bild|foto|datei|anhang)",
        r"^\W*kein\w* (?:bild|foto|datei)\w* (?:wurde |ist |war )?(?:angehängt|hochgeladen|beigefügt|vorhanden|bereitgestellt"
        r"|gefunden)\W*$",
        r"^\W*(?:das|ihr|dein) (?:bild|foto)\b[^.!?]{0,20}\bnicht (?:geladen|sichtbar|angehängt|hochgeladen|angezeigt|mitgeschickt)",
        r"\bbitte\b[^.!?]{0,40}\b(?:bild\w*|foto\w*|datei)\b[^.!?]{0,20}\b(?:hoch|hochladen|senden|schicken|bereit|an|teilen"
        r"|beschreiben)\b",
    ),
    "French": (
        r"\bje n(?:e |')(?:peux|vois|parviens|suis|dispose|reçois|trouve|distingue|perçois|détecte|ai)\b[^.!?]{0,60}\b"
        r"(?:images?|photos?|fichiers?|grille)\b",
        r"^\W*(?:malheureusement,? )?aucune? (?:image|photo|fichier)\b[^.!?]{0,12}\b(?:n'|fourni|joint|visible|disponible|reçu|trouvé)",
        r"\bil n'y a (?:pas d'|aucune? )(?:image|photo|fichier)",
        r"\b(?:veuillez|merci de|pouvez-vous|pourriez-vous|peux-tu)\b[^.!?]{0,20}(?:télécharger|fournir|joindre|partager|envoyer"
        r"|téléverser"
        r"|décrire|importer)",
    ),
    "Spanish": (
        r"\bno (?:puedo|veo|logro|pude|se|hay|encuentro|recibí|he|has|ha|tengo|detecto)\b[^.!?]{0,50}\b(?:im[aá]gen(?:es)?|fotos?"
        r"|archivos?)\b"
        r"(?=\W*$|[,;]|[^.!?]*\b(?:adjunt|para|que|proporcion|en (?:tu|su|el mensaje)))",
        r"^\W*no se (?:ha|han|adjunt|proporcion|carg)\w*\b[^.!?]{0,30}\b(?:imagen|imágenes|foto|archivo)",
        r"\bno veo ninguna (?:imagen|foto)",
        r"\b(?:por favor|podrías|puedes|podría|puede)\b[^.!?]{0,20}\b(?:sub|adjunt|proporcion|compart|enví|envi|describ|carg)\w*",
    ),
    "Portuguese": (
        r"\b(?:não|nao) (?:consigo|posso|vejo|foi|recebi|tenho|encontrei|estou|pude|é possível)\b[^.!?]{0,50}\b(?:image[mn]s?|fotos?"
        r"|arquivos?)\b",
        r"^\W*(?:não há|nenhuma) (?:nenhuma )?(?:imagem|foto)\b[^.!?]{0,20}\b(?:anexad|fornecid|enviad|foi|aqui|disponível)",
        r"\b(?:por favor|poderia|você pode)\b[^.!?]{0,20}\b(?:envi|anex|forneç|forne|carreg|compartilh|descrev)\w*",
    ),
    "Italian": (
        r"\bnon (?:posso|vedo|riesco|c'è|ci sono|è stata|sono state|ho|trovo|sono in grado)\b[^.!?]{0,50}\b(?:immagin[ei]|foto|file)\b"
        r"(?=\W*$|[,;]|[^.!?]*\b(?:allegat|fornit|caricat|inviat|che|nel))",
        r"^\W*nessuna (?:immagine|foto)\b[^.!?]{0,12}\b(?:allegata|fornita|caricata|è stata|visibile)",
        r"\b(?:per favore|potresti|puoi|si prega di|ti prego di)\b[^.!?]{0,20}\b(?:caric|alleg|forni|condivid|invi|descriv)\w*",
    ),
    "Russian": (
        r"\bне (?:вижу|могу (?:\w+ )?(?:у?видеть|просмотреть|открыть|посмотреть|просматривать|проанализировать)|удалось \w+|получил\w*)"
        r"[^.!?]{0,40}(?:изображени|картин|фото|файл)\w*",
        r"\bнет доступа к[^.!?]{0,20}(?:изображени|картин|фото|файл)\w*",
        r"^\W*(?:изображени|картинк|фото)\w*[^.!?]{0,20}(?:не (?:было |был[аои]? )?(?:прикреп|прилож|загру|предостав|отобра)|отсутству)",
        r"\b(?:пожалуйста|прошу|не могли бы вы)\b[^.!?]{0,30}(?:загруз|прикреп|предостав|отправ|пришл|опиш)\w*",
    ),
    "Arabic": (
        r"(?:لا (?:أستطيع|يمكنني|أرى|أتمكن)|لم (?:يتم|تقم|أتمكن|أجد|أتلق|ترفق)|ليس لدي|لست قادر)[^.!؟]{0,50}(?:صور|الصور|ملف|مرفق)",
        r"^\W*لا (?:توجد|يوجد)[^.!؟]{0,8}صور[^.!؟]{0,12}(?:مرفقة|متاحة|هنا|مرئية)",
        r"(?:يرجى|من فضلك|الرجاء|هل يمكنك)[^.!؟]{0,20}(?:تحميل|إرفاق|إرسال|تقديم|رفع|مشاركة|وصف|تزويد)",
    ),
}  # fmt: skip

CAN_DO = (
    r"(?:help|assist|see|view|provide|answer|do|comply|fulfil|generate|create|determine|identify|process|access|complete|give|tell|say"
    r"|analy[sz]e|describe|predict|infer|make|engage|support|continue|discuss|offer|produce|interpret|open|look|display|recogni[sz]e|be"
    r"|read|respond|perform|solve|participate|share|load|directly|actually|currently|really|physically|visually)"
)
DECLINES = {
    "English": (
        r"(?:i'?m|i am|we'?re|we are) (?:(?:very|really|so|deeply|truly|terribly) )?sorry(?=\W*$|\s*[,.;:!–—-]|\s+(?:but|that|to (?:say"
        r"|hear|inform)"
        r"|for (?:the|any)|about|i|we|there|this|as)\b)",
        r"(?:i'?m|i am|we'?re|we are) (?:\w+ )?(?:unable|not able|not (?:allowed|permitted|programmed|designed|capable|comfortable|sure"
        r"|certain))\b",
        r"(?:i'?m|i am) afraid (?:i|we|that|this|there|it|not)\b",
        r"(?:i'?m|i am) (?:just |only |currently )?an? (?:\w+[- ]){0,3}(?:ai|language model|assistant|chatbot|llm)\b",
        r"(?:my |our |please accept my )?(?:sincere |deepest )?apologies(?=\W*$|\s*[,.;:!]|\s+(?:for|but)\b)",
        r"(?:i|we) (?:do |must |sincerely )*apologi[sz]e\b",
        r"(?:oh |so )?sorry\W{1,4}(?:but )?(?:(?:i|there|this|that|it|my|as|cannot|can'?t|unable|please|you|your|the (?:image|picture"
        r"|request))\b"
        r"|we (?:can|could|are (?:unable|not)|do)|no\W*$|not possible)",
        r"sorry(?: about that)?\W*$",
        r"sorry for (?:the|any) (?:inconvenience|confusion|misunderstanding)",
        r"(?:unfortunately|regrettably|sadly)\b,? (?:i|we|this|that|the|there|it|no|as|your|my)\b",
        r"as an? (?:\w+[- ]){0,3}(?:ai|language model|llm|assistant|chatbot)\b",
        r"(?:i|we) (?:cannot|can not|can'?t|won'?t|will not|could not|couldn'?t|would not be able to)(?:\W*$|\W* " + CAN_DO + r"\b)",
        r"(?:i|we) (?:do not|don'?t) (?:see|have|know|think|feel|understand|believe|possess|support|want to)\b",
        r"(?:i|we) (?:must|have to|will|would|need to)? ?(?:respectfully )?(?:decline|refuse)\b",
        r"(?:i'd|i would) (?:rather|prefer) not\b|i(?:'m| am) going to have to decline\b|i(?:'m| am) programmed to\b|that(?:'s"
        r"| is) (?:not|beyond)\b[^.!?]*\bi\b",
        r"(?:i|we) (?:need|would need|'d need|require|lack|was unable|were unable|have no)\b",
        r"(?:cannot|can'?t|could not|couldn'?t|unable to|not able to|impossible to) (?:" + CAN_DO + r")\b(?: (?:the|this|that|with|your"
        r"|any|an?|image|it|you))?",
        r"(?:this|that|it|the|your) (?:\w+ ){0,2}?(?:violates|goes against|is against|(?:is not|isn't|'s not) (?:possible|allowed"
        r"|appropriate|something i)"
        r"|cannot be (?:determined|processed|answered|completed|fulfilled)|may violate|contains? (?:sensitive|explicit|inappropriate))",
        r"(?:it is|it's) (?:impossible|not possible|not clear|unclear|difficult|hard) (?:to|what|for)\b",
        r"(?:there is|there's|there are)? ?(?:not enough|insufficient) (?:information|context|data|details?)\b",
        r"(?:the )?(?:request|content|response|answer) (?:was |is |has been )?(?:denied|refused|rejected|blocked|filtered|withheld"
        r"|removed)\b",
    ),
    "Chinese": (
        r"(?:非常|很|十分|真的|实在)?(?:抱歉|对不起|對不起|不好意思)(?=\W|我|但|无|無|,|$)",
        r"(?:很|非常)?遗憾(?=,|地|我)|(?:很|非常)?遺憾(?=,|地|我)",
        r"我?(?:目前|暂时|現在|现在)?(?:无法|無法|不能|没办法|沒辦法|不可以|没法)(?:为您|为你|為您|直接|再|对|對|从|從|根据|根據)?"
        r"(?:回答|提供|帮助|幫助|协助|協助|完成|生成|确定|確定|处理|處理|满足|滿足|识别|識別|看|查看|访问|給出|给出|判断|判斷|理解|讨论"
        r"|推断)",
        r"[作做]?[为為]一?[个個名款]?(?:AI|人工智能|人工智慧|语言模型|語言模型|大模型|文本模型)|我(?:只)?是一?[个個名款]?(?:AI|人工智能"
        r"|语言模型|語言模型|文本模型|大模型)",
    ),
    "Japanese": (
        r"(?:大変|誠に|まことに)?(?:申し訳(?:ありません|ございません|ない)|すみません|すいません|ごめんなさい|恐れ入ります)(?=\W|が"
        r"|けれど|でも|$)",
        r"残念ながら",
        r"[^。]{0,24}(?:お答え|お応え|対応|お手伝い|支援|提供|回答|生成|判断|特定|推測)(?:することは|することが|は|を"
        r"|が)?(?:でき(?:ません|ない)|いたしかね|しかね)",
        r"(?:私は|わたしは)?(?:AI|人工知能|言語モデル)(?:です|なので|であり|として|のため)",
    ),
    "Korean": (
        r"(?:정말 |대단히 |매우 )?(?:죄송|미안)(?:합니다|하지만|해요|한데|스럽)",
        r"안타깝게도|유감스럽게도|유감입니다|아쉽지만",
        r"[^.]{0,24}(?:도와 ?드릴|답변(?:할|해 드릴|드릴)|제공(?:할|해 드릴)|처리할|생성할|알|판단할|도울|대답할) 수(?:가|는)? 없",
        r"(?:저는|나는) (?:AI|인공지능|언어 ?모델)",
    ),
    "German": (
        r"(?:es )?tut mir (?:sehr |wirklich |aufrichtig )?leid(?=\W|$)",
        r"(?:ich bitte um )?entschuldigung(?=\W*$|\s*[,.!]|\s+(?:aber|dass)\b)|entschuldigen sie",
        r"leider (?:kann|konnte|ist|bin|habe|sehe|war|wurde|gibt|liegt|darf|muss)\b",
        r"(?:das |dabei |hier )?(?:ich|kann ich) (?:kann |konnte |bin |darf |habe |sehe |weiß )?[^.!?]{0,40}\b(?:nicht|keine?n?)\b",
        r"als (?:ki|sprachmodell|künstliche intelligenz|textbasiert\w*)\b",
    ),
    "French": (
        r"(?:je suis (?:vraiment |sincèrement )?)?désolée?(?=\W*$|\s*[,.!]|\s+(?:mais|je|de ne|pour)\b)",
        r"je (?:m'excuse|vous prie de m'excuser|regrette)|toutes mes excuses|mes excuses\b|excusez-moi\b",
        r"malheureusement\b",
        r"je ne (?:peux|suis|puis|sais|vois|dispose|parviens|comprends)\b|je n'ai (?:pas|aucun)",
        r"en tant qu(?:'|e )(?:ia\b|assistant|modèle|intelligence)|il (?:m'est|est) impossible de",
    ),
    "Spanish": (
        r"lo (?:siento|lamento)(?=\W|$)",
        r"(?:perdón|disculp[ae]n?|discúlpame)(?=\W*$|\s*[,.!]|\s+(?:pero|por)\b)|(?:mis|te pido) disculpas|pido disculpas",
        r"lamentablemente|desafortunadamente|por desgracia",
        r"(?:yo )?no (?:puedo|soy capaz|es posible|me es posible|tengo|estoy|sé|veo)\b",
        r"como (?:un |una )?(?:modelo de lenguaje|ia\b|inteligencia artificial|asistente)|soy una? (?:modelo|ia\b|asistente"
        r"|inteligencia)",
    ),
    "Portuguese": (
        r"(?:eu )?(?:sinto muito|lamento)(?=\W|$)",
        r"desculp(?:e|a|em)(?=\W*$|\s*[,.!]|\s+(?:mas|por)\b)|peço desculpas|minhas desculpas",
        r"infelizmente",
        r"(?:eu )?não (?:posso|consigo|sou capaz|é possível|tenho|sei|vejo|estou)\b",
        r"como (?:um |uma )?(?:modelo de linguagem|ia\b|inteligência artificial|assistente)|sou uma? (?:modelo|ia\b|assistente"
        r"|inteligência)",
    ),
    "Italian": (
        r"mi (?:di)?spiace(?=\W|$)|spiacente(?=\W*$|\s*[,.!]|\s+ma\b)|mi scuso\b|le mie scuse\b",
        r"scusa(?:mi|te|temi)?(?=\W*$|\s*[,.!]|\s+ma\b)",
        r"purtroppo\b|sfortunatamente\b",
        r"(?:io )?non (?:posso|sono in grado|riesco|è possibile|ho|so|vedo|mi è possibile)\b",
        r"come (?:modello linguistico|ia\b|assistente|intelligenza)|sono una? (?:modello|ia\b|assistente|intelligenza)",
    ),
    "Russian": (
        r"к сожалению|увы\b",
        r"(?:извините|извини|простите|прости)(?=\W*$|\s*[,.!—-]|\s+(?:но|за|меня)\b)|прошу прощения|мне (?:очень )?жаль"
        r"|приношу (?:свои )?извинения",
        r"я (?:\w+ )?не (?:могу|вижу|имею|в состоянии|способ\w+|знаю|умею)\b|не могу\b",
        r"(?:я )?как (?:ии|языковая модель|искусственный интеллект|нейросеть)|я\W{0,4}(?:всего лишь |просто )?(?:ии|языковая модель)\b",
    ),
    "Arabic": (
        r"(?:أنا )?(?:عذر[\u0627\u064b]+|آسف|أعتذر|أسف|معذرة|المعذرة)(?=\W|$)",
        r"للأسف|مع الأسف|لسوء الحظ",
        r"(?:أنا )?(?:لا (?:أستطيع|يمكنني|أقدر|أعرف|أعلم)|لست قادر|لن أتمكن)",
        r"كنموذج|بصفتي|أنا (?:مجرد )?(?:نموذج|مساعد)",
    ),
    "others": (
        r"(?:het spijt (?:me|mij)|helaas\b)|(?:przepraszam|przykro mi|niestety)\b|(?:üzgünüm|maalesef|ne yazık ki)\b",
        r"(?:क्षमा करें|मुझे (?:खेद|माफ़)|माफ़ (?:करें|कीजिए))|(?:tôi )?(?:xin lỗi|rất tiếc)|(?:mohon )?maaf\b(?=\s*,|\W*$)|(?:ขออภัย"
        r"|ขอโทษ)(?:ครับ|ค่ะ|\W|$)",
        r"(?:на жаль|вибачте)\b|(?:jag är ledsen|tyvärr|beklager|valitettavasti|bohužel|omlouvám se|din păcate|îmi pare rău)\b",
    ),
}  # fmt: skip

# Whole answers (or whole candidates) that mean "none", or repeat a placeholder.
NOTHING = frozenset(
    (
        "n/a|na|n.a|n.a.|none|null|nil|nan|undefined|unknown|not applicable|not available|not sure|not known|unavailable|"
        "no answer|no prompt|no prompts|no caption|no text|no response|no result|no output|no description|nothing|empty|blank|"
        "error|n/d|tbd|to be determined|todo|no image|no images|no picture|no photo|no image available|no image provided|"
        "no idea|idk|i have no idea|yes|no|ok|okay|sure|true|false|prompt|prompts|text prompt|text prompts|the prompt|"
        "your prompt|your prompt here|prompt here|insert prompt here|caption|answer|your answer|string|text|description|"
        "placeholder|b'|image b'|b prime|无|無|没有|沒有|暂无|不适用|不適用|未知|不知道|无法确定|提示词|提示|なし|無し|該当なし|"
        "不明|わかりません|없음|없습니다|해당 없음|해당없음|모름|알 수 없음|keine|keiner|keines|keine angabe|k.a|k. a|nichts|"
        "unbekannt|nicht zutreffend|nicht verfügbar|aucun|aucune|rien|néant|inconnu|sans objet|non applicable|s/o|ninguno|"
        "ninguna|nada|desconocido|no aplica|no disponible|no aplicable|nenhum|nenhuma|desconhecido|não aplicável|não disponível|"
        "nessuno|nessuna|niente|nulla|sconosciuto|non disponibile|non applicabile|нет|ничего|неизвестно|не применимо|"
        "не доступно|недоступно|لا شيء|لا يوجد|غير متاح|غير متوفر|غير معروف|غير محدد"
    ).split("|")
)
NUMBERED_NAME = re.compile(r"(?:text )?(?:prompt|candidate|caption|option|answer)[ _-]?\d{1,2}", re.I)

_HTTP = (
    r"(?:bad request|unauthorized|forbidden|not found|method not allowed|request timeout|too many requests|payload too large"
    r"|internal server error|bad gateway|service unavailable|gateway timeout|unprocessable entity)"
)
ERRORS = (
    r"error\]|(?:an? )?(?:unexpected |internal |api |server |fatal |unknown )*(?:error|exception|failure)(?:\s+(?:code|type))?\s*"
    r"(?:[:=]|\d{3}\b|occurred|has occurred)",
    r"error (?:occurred|while|processing|in|generating|loading|reading)\b",
    rf"(?:http(?:/\d(?:\.\d)?)?\s*)?[45]\d\d\W{{0,4}}(?:{_HTTP}|(?:client |server )?error)\W*$|{_HTTP}\W*$",
    r"traceback \(most recent call last\)|(?:\w+\.)*\w*(?:Error|Exception)\s*:",
    r"(?:torch\.)?(?:cuda )?out of memory\b|cuda error",
    r"rate limit (?:exceeded|reached)|(?:you (?:have )?exceeded your )(?:current )?quota|quota exceeded",
    r"maximum context length|context length exceeded|invalid (?:request|api key|input|image|url)\b",
    r"(?:something|oops\W+something) went wrong|(?:request|connection|generation|inference) (?:failed|timed out|error)",
    r"failed to (?:load|process|decode|fetch|download|open|read|generate)\b|<!doctype html|<html\b",
)

# Opening words without meaning; a refusal may follow them.
OPENERS = re.compile(
    r"^[\W_]*(?:(?:hi|hello|hey|hmm+|well|oh|oh no|ah|uh|um|thanks|thank you(?: (?:for|so)[^.!,]*)?|note|answer|response|output|b'"
    r"|prompts?|caption)(?: there)?[\W_]+)+",
    re.I,
)
MAX_SENTENCE = 400  # characters that are read
SENTENCE_ENDS = re.compile(r"(?<=[.!?])[\"')*_\]]*\s+|[。｡؟\n]+|[!?](?=[^\x00-\x7f])")

_BLIND = re.compile("|".join(f"(?:{pattern})" for patterns in BLIND.values() for pattern in patterns), re.I)
_ERRORS = re.compile(r"^\W*(?:" + "|".join(ERRORS) + ")", re.I)
_DECLINES = re.compile(r"^[\W_]*(?:" + "|".join(f"(?:{pattern})" for patterns in DECLINES.values() for pattern in patterns) + ")", re.I)


def sentences(text: str) -> list[str]:
    """The sentences of a text, also split at line breaks, without empty ones and with straight apostrophes."""
    straight = re.sub(r"[’‘ʼ′´`]", "'", text)
    return [piece.strip()[:MAX_SENTENCE] for piece in SENTENCE_ENDS.split(straight) if piece and any(c.isalnum() for c in piece)]


def sees_nothing(text: str) -> bool:
    """Whether a sentence says that no picture was shown, or asks for one."""
    return any(_BLIND.search(sentence) for sentence in sentences(text))


def declines(text: str) -> bool:
    """Whether the text begins like a refusal; words such as "Hello!" may come before."""
    for sentence in sentences(text)[:3]:
        opened = OPENERS.sub("", sentence)
        if _DECLINES.match(sentence) or (opened and _DECLINES.match(opened)):
            return True
        if opened and not re.fullmatch(r"\W*(?:hi|hello|hey|hmm+|well|oh|thanks|thank you)\b[^,]*", sentence, re.I):
            return False
    return False


def says_nothing(text: str) -> bool:
    """Whether the whole text is a word for "none", such as N/A, or a placeholder, such as prompt1."""
    bare = text[:MAX_SENTENCE].replace("’", "'").casefold().strip(" \t\n.,;:!?\"`*_~#<>[](){}…-–—=|/\\“”„«»「」『』。、")
    parts = [part.strip() for part in bare.split(",")]
    return all(part in NOTHING or NUMBERED_NAME.fullmatch(part) for part in parts)


def is_error(text: str) -> bool:
    """Whether the text is an error message of a program or server."""
    return _ERRORS.match(text[:MAX_SENTENCE]) is not None
